# On the CA minion: the authority that signs for the minions of certificate.fleet.minions.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings

postfix_mta_fleet_ca:
  mta_cert.ca_managed:
{%- for name, value in mta.authority.items() %}
    - {{ name }}: {{ value | json }}
{%- endfor %}
    - require:
      - mta_transaction: postfix_mta_recovered

postfix_mta_signs:
  mta_fleet_ca.signs:
    - name: {{ mta.authority.name | json }}
    - key: {{ mta.authority.key | json }}
    - require:
      - mta_cert: postfix_mta_fleet_ca
