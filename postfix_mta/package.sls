# The packages, with the debconf answers of the how-to; /etc/mailname and, if requested, /etc/hosts before them.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
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
    - idle: {{ mta.family.idle | json }}
    - require:
      - mta_transaction: postfix_mta_recovered
