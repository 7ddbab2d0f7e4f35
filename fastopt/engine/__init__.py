"""One step, from `Optimizer.update` to the kernels. Private: names in here may change in any version.

`step.make` runs the phases of a step in this order:

1. take the plan that fits params and grads, or make one (`plan`, `address_table`);
2. settings of this step, by group, schedules included;
3. refuse or skip gradients that are not finite;
4. scalars of the rule, of transforms and of norms (`transform_scalars`, `norms`);
5. averages of the weights;
6. sparse rows catch up with the steps that they skipped (`catch_up`);
7. run the launches (`launch`, `sparse_launch`, `centralized_launch`);
8. commit state and step count, also under Ctrl-C.

Small plain steps are one call of C instead (`one_call`); steps like the one before whose settings vary, by group or
schedule, or that clip by the norm, skip what cannot have changed (`again`).

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
