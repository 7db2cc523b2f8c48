# The how-to's ports in the firewall.
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings

postfix_mta_firewall:
  mta_firewall.managed:
    - backend: {{ mta.firewall.backend | json }}
    - ports: {{ mta.firewall.ports | json }}
    - rules_file: {{ mta.firewall.rules_file | json }}
    - require:
      - mta_transaction: postfix_mta_recovered
