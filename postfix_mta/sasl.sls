# saslauthd, its socket in Postfix's chroot, and smtpd's use of it.
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .package

{%- if mta.sasl.enabled %}

postfix_mta_sasl:
  saslauthd.managed:
    - mechanisms: {{ mta.sasl.mechanisms | json }}
    - mech_options: {{ mta.sasl.options | json }}
    - threads: {{ mta.sasl.threads | json }}
    - cache: {{ mta.sasl.cache | json }}
    - socket_directory: {{ mta.sasl.socket_directory | json }}
    - directory_mode: {{ mta.sasl.directory_mode | json }}
    - smtpd_conf: {{ mta.family.smtpd_conf | json }}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed

extend:
  postfix_mta_committed:
    mta_transaction:
      - services: [saslauthd, postfix]
{%- endif %}
