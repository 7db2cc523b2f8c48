# The end of every change: what the parts changed is put in force and verified by an SMTP conversation, and committed; or
# all of it is undone. Then the end of the apply is recorded.
#
# A part alone promises no more than its own files do: .sasl adds saslauthd here, .config the whole conversation.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .package

postfix_mta_committed:
  mta_transaction.committed:
    - name: postfix_mta
    - services: [postfix]
    - verify:
        enabled: {{ mta.verify.enabled | json }}
        timeout: {{ mta.verify.timeout | json }}
        relay: {{ mta.verify.relay | json }}
        intended: {{ mta.verify.intended | json }}
{%- if mta.conversation.skip is defined %}
        skip: {{ mta.conversation.skip | json }}
{%- endif %}
    - require:
      - mta_package: postfix_mta_package

postfix_mta_ended:
  mta_apply.ended:
    - name: {{ mta.family.config_directory | json }}
    - revision: {{ mta.revision | json }}
    - order: last
