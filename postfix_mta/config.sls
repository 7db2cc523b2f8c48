# main.cf and master.cf, and the end of lookup tables and certificates that the settings no longer have.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .certificate
  - .sasl
{%- if mta.maps %}
  - .maps
{%- endif %}
{%- if mta.signer or mta.signer_left %}
  - .dkim
{%- endif %}
{%- if mta.sts or mta.sts_left %}
  - .mta_sts
{%- endif %}

postfix_mta_config:
  postconf.managed:
    - name: {{ mta.family.config_directory | json }}
    - parameters: {{ mta.main_cf | json }}
    - services: {{ mta.services | json }}
    - unmanaged: {{ mta.unmanaged | json }}
    - revert: {{ mta.revert | json }}
    - optional: {{ mta.of_profile | json }}
    - dane: {{ mta.dane | json }}
    - transaction: postfix_mta
    - require:
{%- for pair in mta.pairs %}
      - mta_cert: {{ pair.id }}
{%- endfor %}
      - saslauthd: postfix_mta_sasl
{%- for name in mta.maps %}
      - mta_map: postfix_mta_map_{{ name }}
{%- endfor %}
{%- if mta.signer or mta.signer_left %}
      - mta_dkim: postfix_mta_dkim
{%- endif %}
{%- if mta.sts or mta.sts_left %}
      - mta_sts: postfix_mta_sts
{%- endif %}
    - require_in:
      - mta_transaction: postfix_mta_committed

{%- if mta.pairs %}

postfix_mta_certificates:
  mta_cert.only:
    - keep: {{ mta.pairs_keep | json }}
    - transaction: postfix_mta
    - require:
      - postconf: postfix_mta_config
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endif %}

postfix_mta_maps:
  mta_map.only:
    - keep: {{ mta.maps_keep | json }}
    - absent: {{ mta.maps_absent | json }}
    - transaction: postfix_mta
    - require:
      - postconf: postfix_mta_config
    - require_in:
      - mta_transaction: postfix_mta_committed

extend:
  postfix_mta_committed:
    mta_transaction:
      - verify: {{ dict(mta.conversation, enabled=mta.verify.enabled, hostname=mta.hostname,
                       relay=mta.verify.relay, intended=mta.verify.intended) | json }}
{%- if mta.signer %}
      - signed: {{ mta.signer.domains | json }}
{%- endif %}
{%- if mta.sts %}
      - follows_mta_sts: true
{%- endif %}
