{#-
  On the master: salt-run state.orchestrate postfix_mta.orch.rollout pillar='{rollout: {tgt: "mail*"} }'

  `rollout` has the arguments of the runner postfix_mta.rollout. test=True shows the plan.
-#}
{%- set wanted = salt["pillar.get"]("rollout", {}) %}
{%- if opts.test %}
{%-   set plan = salt["saltutil.runner"]("postfix_mta.rollout", kwarg=dict(wanted, test=True)) %}

postfix_mta_rollout:
  test.configurable_test_state:
    - name: postfix_mta.rollout
    - changes: True
    - result: Null
    - comment: {{ (plan.report if plan is mapping else plan) | json }}
{%- else %}

postfix_mta_rollout:
  salt.runner:
    - name: postfix_mta.rollout
{%-   for key, value in wanted.items() %}
    - {{ key | json }}: {{ value | json }}
{%-   endfor %}
{%- endif %}
