# The lookup tables of the pillar. They are there before main.cf names them; those that left the pillar go after it
# named them (.config).
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .commit

{%- for name, table in mta.maps.items() %}

postfix_mta_map_{{ name }}:
  mta_map.managed:
{%-   for key, value in table.items() %}
    - {{ key }}: {{ value | json }}
{%-   endfor %}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endfor %}
