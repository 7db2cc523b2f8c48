# main.cf and master.cf.
{%- from 'postfix_mta/map.jinja' import mta with context %}
include:
  - .certificate
  - .sasl

postfix_mta_config:
  postconf.managed:
    - name: {{ mta.family.config_directory | json }}
    - parameters: {{ mta.main_cf | json }}
    - services: {{ mta.services | json }}
    - unmanaged: {{ mta.unmanaged | json }}
    - transaction: postfix_mta
    - require:
      - mta_cert: postfix_mta_certificate
{%- if mta.sasl.enabled %}
      - saslauthd: postfix_mta_sasl
{%- endif %}
    - require_in:
      - mta_transaction: postfix_mta_committed
