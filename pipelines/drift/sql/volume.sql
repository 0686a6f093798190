-- one row per day and measure: how much happened. Reads `drift_days` and `drift_activity`.
-- Repeats are counted of one in `$every` of what may repeat.
with
pairs as (
    select
        back,
        hash(member_id, item_id, action) as pair,
        count(*) as n_copies,
    from drift_activity
    where hash(member_id, item_id, action) % $every = 0
    group by all
),

of_pairs as (
    select
        back,
        sum(n_copies - 1) / sum(n_copies) as repeats,
    from pairs
    group by back
),

per_member as (
    select
        back,
        member_id,
        count(*) as n_actions,
    from drift_activity
    group by all
),

of_members as (
    select
        back,
        sum(n_actions) as n_actions,
        count(*) as n_members,
        max(n_actions) as most,
    from per_member
    group by back
),

of_items as (
    select
        back,
        count(distinct item_id) as n_items,
    from drift_activity
    group by back
),

counted as (
    select
        drift_days.back,
        coalesce(of_members.n_actions, 0) as n_actions,
        coalesce(of_pairs.repeats * of_members.n_actions, 0) as n_repeats,
        coalesce(of_members.n_members, 0) as n_members,
        coalesce(of_members.most, 0) as most,
        coalesce(of_items.n_items, 0) as n_items,
    from drift_days
    left join of_members on drift_days.back = of_members.back
    left join of_pairs on drift_days.back = of_pairs.back
    left join of_items on drift_days.back = of_items.back
),

volume as (
    select
        counted.back,
        told.measure,
        '' as part,
        told.kind,
        told.amount::double as amount,
        counted.n_actions as n_rows,
        null::double as error,
    from counted
    cross join lateral (
        values
        ('rows', 'count', counted.n_actions),
        ('members', 'count', counted.n_members),
        ('items', 'count', counted.n_items),
        ('busiest member', 'count', counted.most),
        ('repeats', 'share', counted.n_repeats)
    ) as told (measure, kind, amount)
)

select * from volume
where kind = 'count' or n_rows > 0
