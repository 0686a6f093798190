-- one row: members of the control and of the treatment, in an arm that is not theirs, in both arms
-- Reads `experiment_members`.
select
    count(*) filter (where not is_treatment and not is_in_both) as control,
    count(*) filter (where is_treatment and not is_in_both) as treatment,
    count(*) filter (where is_wrong) as wrong,
    count(*) filter (where is_in_both) as both_arms,
from experiment_members
