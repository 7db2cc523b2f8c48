# Postfix and saslauthd enabled and running with what the transaction changed: verified, or undone.
{%- from 'postfix_mta/map.jinja' import mta with context %}
include:
  - .package

postfix_mta_committed:
  mta_transaction.committed:
    - name: postfix_mta
    - services: {{ (['saslauthd', 'postfix'] if mta.sasl.enabled else ['postfix']) | json }}
    - verify:
        enabled: {{ mta.verify.enabled | json }}
        hostname: {{ mta.hostname | json }}
        ca_file: {{ mta.ca_file | json }}
        capabilities: {{ mta.verify.capabilities | json }}
        login_pillar: {{ mta.verify.login_pillar | json }}
        timeout: {{ mta.verify.timeout | json }}
    - require:
      - mta_package: postfix_mta_package
