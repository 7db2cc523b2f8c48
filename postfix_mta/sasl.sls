# saslauthd, its socket in Postfix's chroot, and smtpd's use of it; or none of it where it is not used.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .commit

postfix_mta_sasl:
  saslauthd.{{ "managed" if mta.sasl.saslauthd else "absent" }}:
{%- for name, value in mta.saslauthd.items() %}
    - {{ name }}: {{ value | json }}
{%- endfor %}
{%- if mta.sasl.saslauthd and mta.sasl.proxy %}
    - proxy: salt://postfix_mta/files/saslauthd-proxy.py
{%- endif %}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- if mta.sasl.saslauthd %}

extend:
  postfix_mta_committed:
    mta_transaction:
      - services: [saslauthd, postfix]
{%- endif %}
