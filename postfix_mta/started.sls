{#-
  What the start of a minion leads to, through reactor/react.sls: the first apply, for a minion whose pillar has
  postfix_mta; another one, where an apply was cut off or something was wrong before; else nothing.
-#}
{%- set known = "mta_reprovision.due" in salt %}
{%- if pillar.get("postfix_mta") is mapping
    and (not known or not salt["mta_apply.last"]() or salt["mta_reprovision.due"]()) %}
include:
  - postfix_mta
{%- else %}

postfix_mta_started:
  test.nop:
    - name: nothing to do
{%- endif %}
