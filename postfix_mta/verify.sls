# The how-to's last section: the server answers as it should. Alone, it changes nothing.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .settings
{%- if mta.verify.enabled %}

postfix_mta_verified:
  mta_probe.answers:
    - name: {{ mta.hostname | json }}
{%- for name, value in mta.conversation.items() %}
    - {{ name }}: {{ value | json }}
{%- endfor %}
    - order: -2
    - require:
      - mta_transaction: postfix_mta_recovered
{%- endif %}
{%- if mta.dns.check != "none" %}

postfix_mta_dns:
  mta_dns.published:
    - required: {{ (mta.dns.check == "required") | json }}
    - order: last
    - require:
      - mta_transaction: postfix_mta_recovered
{%- endif %}
