# The CA, and the server's key and certificate; two pairs where the pillar has a second one.
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
{%- set certificate = mta.certificate %}
include:
  - .commit

{%- if certificate.source == 'local_ca' %}

postfix_mta_ca:
  mta_cert.ca_managed:
{%-   for name, value in mta.authority.items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
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
{%-   for name, value in pair.arguments.items() %}
    - {{ name }}: {{ value | json }}
{%-   endfor %}
    - transaction: postfix_mta
    - require:
      - mta_package: postfix_mta_package
    - require_in:
      - mta_transaction: postfix_mta_committed
{%- endfor %}
{%- if certificate.source != 'local_ca' and not mta.pairs %}

# Were there no state, Salt would have to render all files in every run.
postfix_mta_no_certificate:
  test.nop:
    - name: nothing here needs a certificate
{%- endif %}
{%- if certificate.source == 'fleet_ca' and certificate.fleet.trust_store %}

postfix_mta_trust_store:
  mta_fleet_ca.trusted:
    - name: {{ mta.family.trust_store.file | json }}
    - source: {{ certificate.ca.certificate | json }}
    - command: {{ mta.family.trust_store.command | json }}
    - require:
      - mta_transaction: postfix_mta_committed
{%- endif %}
