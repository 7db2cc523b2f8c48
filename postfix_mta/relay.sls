# The logins at smarthosts. What main.cf says of them is among postfix_mta.config's parameters.
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
include:
  - .config
{%- if mta.relay.logins or mta.relay.unused %}

postfix_mta_relay:
  mta_relay.managed:
    - name: {{ mta.relay.file | json }}
    - logins: {{ mta.relay.logins | json }}
    - transaction: postfix_mta
{%-   if mta.relay.logins %}
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - postconf: postfix_mta_config
      - mta_transaction: postfix_mta_committed
{%-   else %}
    - require:
      - postconf: postfix_mta_config
    - require_in:
      - mta_transaction: postfix_mta_committed
{%-   endif %}
{%- endif %}
