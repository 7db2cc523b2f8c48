# The DKIM signer; or none of it where nothing is signed any more.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .commit
{%- if mta.signer or mta.signer_left %}

postfix_mta_dkim:
  mta_dkim.{{ "managed" if mta.signer else "absent" }}:
{%-   for name, value in (mta.signer or {"name": "dkim"}).items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endif %}
