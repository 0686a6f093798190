-- one row per day and configured action ($actions): its share of the day's actions
-- Reads `drift_days` and `drift_activity`.
with
named as (
    select unnest($actions) as action,
),

counts as (
    select
        back,
        action,
        count(*) as n_actions,
    from drift_activity
    group by all
),

totals as (
    select
        back,
        sum(n_actions) as n_rows,
    from counts
    group by back
),

actions as (
    select
        totals.back,
        'action' as measure,
        named.action as part,
        'share' as kind,
        coalesce(counts.n_actions, 0)::double as amount,
        totals.n_rows::bigint as n_rows,
        null::double as error,
    from totals
    cross join named
    left join counts on totals.back = counts.back and named.action = counts.action
)

select * from actions
