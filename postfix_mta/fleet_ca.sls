# On the CA minion: the authority that signs for the minions of certificate.fleet.minions.
{%- if "mta_settings.effective" in salt %}{% set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
{%- set certificate = mta.certificate %}
include:
  - .settings

postfix_mta_fleet_ca:
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
    - require:
      - mta_transaction: postfix_mta_recovered
