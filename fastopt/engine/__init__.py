"""One step, from `Optimizer.update` to the kernels. Private: names in here may change in any version.

`step.make` runs the phases of a step in this order:

1. settings of this step, schedules included (`settings`);
2. take the plan that fits params and grads, or make one (`kept_plans`, `plan`, `address_table`), and the settings by
   group;
3. scalars of the rule;
4. refuse or skip gradients that are not finite; scalars of transforms and norms (`passes`, `transform_scalars`);
5. averages of the weights (`averaging`);
6. sparse rows catch up with the steps that they skipped (`catch_up`);
7. run the launches (`launch`, `sparse_launch`, `centralized_launch`, `stored_launch`), then constraints on rows
   (`projections`);
8. commit state and step count, also under Ctrl-C.

Plain steps are one call of C instead (`one_call`); steps like the one before whose settings
vary, by group or schedule, or that clip by the norm, skip what cannot have changed (`again`).

Words
-----
leaf
    an array among params, with its name
column, table row
    of the address table: a slot of the state, a leaf
group
    settings of some of the leaves
launch
    one kernel call
pass
    one walk over memory
piece
    what a thread takes at a time
slot
    a named piece of a rule's state, such as `m`
statistics
    what a report adds up
transform
    what is done to a gradient before the rule
"""
