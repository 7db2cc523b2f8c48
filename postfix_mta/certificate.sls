# The CA, and the server's key and certificate; two pairs where the pillar has a second one.
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
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
    - previous_passphrase_pillar: {{ certificate.ca.previous_passphrase_pillar | json }}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
{%- for pair in mta.pairs %}
      - mta_cert: {{ pair.id }}
{%- endfor %}
{%- endif %}
{%- for pair in mta.pairs %}

{{ pair.id }}:
  mta_cert.managed:
    - name: {{ pair.certificate | json }}
    - key: {{ pair.key | json }}
    - chain_file: {{ pair.chain_file | json }}
    - hostname: {{ mta.hostname | json }}
    - source: {{ certificate.source | json }}
{%- if certificate.source == 'files' %}
{%-   for part in ('certificate', 'key', 'chain') %}
    - {{ part }}_source: {{ pair.files[part] | json }}
{%-   endfor %}
{%- elif certificate.source == 'fleet_ca' %}
    - ca_certificate: {{ certificate.ca.certificate | json }}
    - ca_minion: {{ certificate.fleet.ca_minion | json }}
    - policy: {{ certificate.fleet.policy | json }}
{%- elif certificate.source == 'local_ca' %}
    - ca_certificate: {{ certificate.ca.certificate | json }}
    - ca_key: {{ certificate.ca.key | json }}
    - passphrase_pillar: {{ certificate.ca.passphrase_pillar | json }}
    - previous_passphrase_pillar: {{ certificate.ca.previous_passphrase_pillar | json }}
{%- endif %}
    - alternative_names: {{ certificate.names | json }}
    - subject: {{ certificate.subject | json }}
    - key_type: {{ pair.key_type | json }}
    - key_size: {{ pair.key_size | json }}
    - days: {{ certificate.days | json }}
    - renew_days: {{ certificate.renew_days | json }}
    - rotate_key: {{ certificate.rotate_key | json }}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endfor %}
{%- if certificate.source == 'fleet_ca' and certificate.fleet.trust_store %}

postfix_mta_trust_store:
  mta_fleet_ca.trusted:
    - name: {{ mta.family.trust_store.file | json }}
    - source: {{ certificate.ca.certificate | json }}
    - command: {{ mta.family.trust_store.command | json }}
    - require:
      - mta_transaction: postfix_mta_committed
{%- endif %}
