-- one row per day and measure: the share of actions by new members, on new items, on unknown items
-- Reads `drift_days`, `drift_activity` and `stg_items`. New is an id on the first of the days that
-- has it, so the older half of the days is left out; unknown, an item without a row by the end of
-- the day.
with
known as (
    select
        item_id,
        min(available_at) as available_at,
    from stg_items
    group by item_id
),

members as (
    select
        member_id,
        max(back) as first_back,
    from drift_activity
    group by member_id
),

items as (
    select
        item_id,
        max(back) as first_back,
    from drift_activity
    group by item_id
),

shares as (
    select
        drift_days.back,
        drift_days.is_recent,
        count(*) as n_rows,
        count(*) filter (where drift_activity.back = members.first_back) as n_new_members,
        count(*) filter (where drift_activity.back = items.first_back) as n_new_items,
        count(*) filter (
            where known.available_at is null or known.available_at >= drift_days.ends_at
        ) as n_unknown,
    from drift_activity
    inner join drift_days on drift_activity.back = drift_days.back
    inner join members on drift_activity.member_id = members.member_id
    inner join items on drift_activity.item_id = items.item_id
    left join known on drift_activity.item_id = known.item_id
    group by drift_days.back, drift_days.is_recent
),

ids as (
    select
        shares.back,
        told.measure,
        '' as part,
        'share' as kind,
        told.amount::double as amount,
        shares.n_rows,
        null::double as error,
        shares.is_recent,
    from shares
    cross join lateral (
        values
        ('new members', shares.n_new_members),
        ('new items', shares.n_new_items),
        ('unknown items', shares.n_unknown)
    ) as told (measure, amount)
)

select * exclude (is_recent)
from ids
where is_recent or measure = 'unknown items'
