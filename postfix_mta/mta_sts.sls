# What knows the MTA-STS policies of other domains; or none of it where nothing keeps to them any more.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .commit
{%- if mta.sts or mta.sts_left %}

postfix_mta_sts:
  mta_sts.{{ "managed" if mta.sts else "absent" }}:
    - name: mta_sts
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endif %}
