{#-
  On the master: salt-run state.orchestrate postfix_mta.orch.rollout pillar='{rollout: {tgt: "mail*"} }'

  `rollout` has the arguments of the runner postfix_mta.rollout. test=True shows the plan.
-#}
{%- set wanted = salt["pillar.get"]("rollout", {}) %}
{%- set plan = salt["saltutil.runner"]("postfix_mta.rollout", kwarg=dict(wanted, test=True)) if opts.test %}

postfix_mta_rollout:
{%- if plan is mapping and plan.result %}
  test.configurable_test_state:
    - name: postfix_mta.rollout
    - changes: True
    - comment: {{ plan.report | json }}
{%- elif opts.test %}
  test.fail_without_changes:
    - name: {{ (plan.report if plan is mapping else plan | string) | json }}
{%- else %}
  salt.runner:
    - name: postfix_mta.rollout
{%-   for key, value in wanted.items() %}
    - {{ key | json }}: {{ value | json }}
{%-   endfor %}
{%- endif %}
