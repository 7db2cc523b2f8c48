# The mail server's ports in the firewall. Last of the parts: `listeners` are those of the master.cf that they leave.
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings

postfix_mta_firewall:
  mta_firewall.managed:
    - backend: {{ mta.firewall.backend | json }}
    - ports: {{ mta.firewall.ports | json }}
    - config_directory: {{ mta.family.config_directory | json }}
    - rules_file: {{ mta.firewall.rules_file | json }}
    - rules_file_v6: {{ mta.firewall.rules_file_v6 | json }}
    - nftables_file: {{ mta.firewall.nftables_file | json }}
    - zones: {{ mta.firewall.zones | json }}
    - require:
      - mta_transaction: postfix_mta_recovered
