# The CA, and the server's key and certificate.
{%- from 'postfix_mta/map.jinja' import mta with context %}
{%- set certificate = mta.certificate %}
include:
  - .package
  - .transaction

{%- if certificate.source == 'local_ca' %}

postfix_mta_ca:
  mta_cert.ca_managed:
    - name: {{ certificate.ca.certificate | json }}
    - key: {{ certificate.ca.key | json }}
    - subject: {{ certificate.subject | json }}
    - common_name: {{ ('CA of ' ~ mta.hostname) | json }}
    - key_type: {{ certificate.key_type | json }}
    - key_size: {{ certificate.key_size | json }}
    - days: {{ certificate.ca.days | json }}
    - renew_days: {{ certificate.renew_days | json }}
    - passphrase_pillar: {{ certificate.ca.passphrase_pillar | json }}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_cert: postfix_mta_certificate
{%- endif %}
{%- if certificate.source != 'none' %}

postfix_mta_certificate:
  mta_cert.managed:
    - name: {{ certificate.certificate | json }}
    - key: {{ certificate.key | json }}
    - hostname: {{ mta.hostname | json }}
    - alternative_names: {{ certificate.names | json }}
    - subject: {{ certificate.subject | json }}
    - key_type: {{ certificate.key_type | json }}
    - key_size: {{ certificate.key_size | json }}
    - days: {{ certificate.days | json }}
    - renew_days: {{ certificate.renew_days | json }}
{%- if certificate.source == 'local_ca' %}
    - ca_certificate: {{ certificate.ca.certificate | json }}
    - ca_key: {{ certificate.ca.key | json }}
    - passphrase_pillar: {{ certificate.ca.passphrase_pillar | json }}
{%- endif %}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endif %}
