# Back to before the first apply: the beacon, the schedule, our firewall ports, then every file that the transactions
# changed and nobody has since. Mail, packages, an authority's private key and the names of the host stay.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings

postfix_mta_beacon_clean:
  mta_beacon.managed:
    - enabled: false
    - require:
      - mta_transaction: postfix_mta_recovered

postfix_mta_schedule_clean:
  mta_schedule.managed:
    - enabled: false
    - require:
      - mta_transaction: postfix_mta_recovered

postfix_mta_firewall_clean:
  mta_firewall.absent:
    - rules_file: {{ mta.firewall.rules_file | json }}
    - rules_file_v6: {{ mta.firewall.rules_file_v6 | json }}
    - nftables_file: {{ mta.firewall.nftables_file | json }}
    - require:
      - mta_transaction: postfix_mta_recovered

postfix_mta_trust_store_clean:
  mta_fleet_ca.untrusted:
    - name: {{ mta.family.trust_store.file | json }}
    - command: {{ mta.family.trust_store.command | json }}
    - require:
      - mta_transaction: postfix_mta_recovered

postfix_mta_clean:
  mta_transaction.restored:
    - name: postfix_mta
    - require:
      - mta_transaction: postfix_mta_recovered
