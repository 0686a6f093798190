-- one row per cohort and arm: the moments of a metric over its members (operations/experiments)
-- Reads `experiment_members`, `member_cohorts` and `metric_of_members`. Who is in both arms is left
-- out.
select
    member_cohorts.cohort,
    experiment_members.is_treatment,
    count(*) as members,
    count(*) filter (where metric_of_members.amount <> 0) as active,
    avg(metric_of_members.amount) as amount,
    avg(metric_of_members.size) as size,
    coalesce(var_samp(metric_of_members.amount), 0) as amounts,
    coalesce(var_samp(metric_of_members.size), 0) as sizes,
    coalesce(covar_samp(metric_of_members.amount, metric_of_members.size), 0) as joint,
from experiment_members
inner join metric_of_members on experiment_members.member_id = metric_of_members.member_id
inner join member_cohorts on experiment_members.member_id = member_cohorts.member_id
where not experiment_members.is_in_both
group by member_cohorts.cohort, experiment_members.is_treatment
order by member_cohorts.cohort, experiment_members.is_treatment
