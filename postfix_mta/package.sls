# First and last of every change: the packages, with the how-to's debconf answers (/etc/mailname and, if wanted,
# /etc/hosts before them), and the end of the transaction: what the parts changed is in force and verified, or undone;
# then the beacon that watches it, the schedule, and the end of the apply.
#
# Alone, a part promises no more than its own files do: .sasl adds saslauthd here, .config the whole conversation.
{%- if "__master_opts__" not in opts and "mta_settings.effective" in salt %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings

{%- if mta.manage_hosts_file %}

postfix_mta_hosts_file:
  host.only:
    - name: 127.0.1.1
    - hostnames: {{ [mta.hostname, mta.short] | json }}
    - require:
      - mta_transaction: postfix_mta_recovered
    - require_in:
      - mta_package: postfix_mta_package
{%- endif %}

postfix_mta_package:
  mta_package.installed:
    - packages: {{ mta.packages | json }}
    - answers: {{ mta.debconf | json }}
    - mailname: {{ mta.mailname | json }}
    - mailname_file: {{ mta.family.mailname_file | json }}
    - require:
      - mta_transaction: postfix_mta_recovered

postfix_mta_committed:
  mta_transaction.committed:
    - name: postfix_mta
    - services: [postfix]
    - verify:
        enabled: {{ mta.verify.enabled | json }}
        timeout: {{ mta.verify.timeout | json }}
    - require:
      - mta_package: postfix_mta_package
{%- if mta.beacon %}

postfix_mta_beacon:
  mta_beacon.managed:
{%-   for name, value in mta.beacon.items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
    - require:
      - mta_transaction: postfix_mta_committed
{%- endif %}
{%- if mta.schedule %}

postfix_mta_schedule:
  mta_schedule.managed:
{%-   for name, value in mta.schedule.items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
    - require:
      - mta_transaction: postfix_mta_committed
{%- endif %}

postfix_mta_ended:
  mta_apply.ended:
    - name: {{ mta.family.config_directory | json }}
    - revision: {{ mta.revision | json }}
    - order: last
