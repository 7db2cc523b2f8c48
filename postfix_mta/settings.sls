{#-
  First in every run: this formula's own modules, the pillar's validity, and the end of an interrupted apply.

  `state.apply NAME` does not sync custom modules, so it is done here, in test mode too. The states of the same run
  see the synced modules after force_reload_modules; what is rendered in the same run does not.
-#}
{%- if sls != "postfix_mta.settings" %}
{{ raise("The formula has to be at the root of its environment, so that this file is " ~
   "salt://postfix_mta/settings.sls: give the gitfs remote no mountpoint, and no root but its own") }}
{%- endif %}
{%- if "__master_opts__" not in opts and "mta_settings" in salt.file_mapping | default([]) %}
{%-   set mta = salt["mta_settings.effective"](saltenv) %}
{%- else %}{% from "postfix_mta/map.jinja" import mta with context %}{% endif %}
{%- if not mta.synced %}
{#-
    Those that it syncs by itself, or it would remove their modules, and this one, which may be none of them. A run
    with an environment of its own sees no other's top file: the modules of everybody are in `base`, then.
#}
{%-   set top = salt["state.show_top"](concurrent=True) %}
{%-   set top = (top if top is mapping else {}) | list %}
{%-   set others = (["base"] if opts.saltenv and "base" not in top else []) + top %}
{%-   set others = others | reject("equalto", saltenv) | list %}
{%-   for kind in ["modules", "states", "beacons"] %}
{%-     do salt["saltutil.sync_" ~ kind](refresh=False, saltenv=others + [saltenv]) %}
{%-   endfor %}

postfix_mta_modules:
  test.nop:
    - force_reload_modules: True
    - require_in:
      - mta_settings: postfix_mta_settings
{%- endif %}

postfix_mta_settings:
  mta_settings.valid:
    - name: postfix_mta
    - hostname: {{ mta.hostname | json }}
    - family: {{ grains.get("os_family") | json }}
    - formula: salt://postfix_mta

postfix_mta_recovered:
  mta_transaction.recovered:
    - name: postfix_mta
    - require:
      - mta_settings: postfix_mta_settings
