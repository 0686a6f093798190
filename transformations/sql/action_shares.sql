-- one row per action that is visible at `until`: its share of all of them
-- Reads `example_counts` of all members.
with
counted as (
    select
        action,
        sum(n_visible)::bigint as n_actions,
    from example_counts
    where n_visible > 0
    group by action
),

action_shares as (
    select
        action,
        n_actions / sum(n_actions) over ()::bigint as action_share,
    from counted
)

select * from action_shares
