# Who reads root's and postmaster's mail, and the other aliases of the pillar; those that left it are as before.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .commit

postfix_mta_aliases:
  mta_aliases.managed:
    - name: {{ mta.family.aliases_file | json }}
    - aliases: {{ dict(mta.root_aliases, **mta.aliases) | json }}
    - absent_only: {{ mta.rfc2142_aliases | json }}
    - seeded: {{ dict(mta.root_aliases, postmaster='root') | json }}
    - revert: true
    - follow: true
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
