-- one row per item: what members did with it before $as_of
-- Reads `activity_so_far`, `stg_items`, `item_clusters`. Has the items that are known by then, also
-- those that are over, and others that were acted on; no searches. n_1d, n_7d, n_28d are lists in
-- the order of $actions. With $since only the items that something happened to since then: their
-- ranks are those among all.
with
seen as (
    select
        item_id,
        member_id,
        action,
        sign,
        dwell,
        event_timestamp,
        coalesce(ingested_at, event_timestamp) as known_at,
        event_timestamp >= $as_of - interval 1 day as is_1d,
        event_timestamp >= $as_of - interval 7 day as is_7d,
        event_timestamp >= $as_of - interval 28 day as is_28d,
    from activity_so_far
    where
        event_timestamp < $as_of
        and coalesce(ingested_at < $as_of, true)
        and list_contains($actions, action)
),

acted_on as (
    select
        item_id,
        histogram(action) filter (where is_1d) as by_1d,
        histogram(action) filter (where is_7d) as by_7d,
        histogram(action) filter (where is_28d) as by_28d,
        count(*) filter (where sign > 0) as positive,
        count(*) filter (where sign <> 0) as judged,
        count(*) filter (where sign > 0 and is_7d) as positive_7d,
        count(*) filter (where sign > 0 and is_28d) as positive_28d,
        count(distinct member_id) filter (where is_28d) as members,
        count(distinct member_id) filter (where sign > 0 and is_28d) as likers,
        median(dwell) filter (where is_28d) as dwell,
        max(known_at) as last_known_at,
    from seen
    group by item_id
),

versions as (
    select
        item_id,
        kind,
        list_filter(categories, lambda c: starts_with(c, $category))[1] as category,
        available_at,
        min(available_at) over (partition by item_id) as first_at,
    from stg_items
    where available_at <= $as_of
),

known as (
    select *
    from versions
    qualify row_number() over (partition by item_id order by available_at desc) = 1
),

items as (
    select
        coalesce(known.item_id, acted_on.item_id) as item_id,
        known.first_at,
        known.category,
        item_clusters.cluster,
        coalesce(acted_on.likers, 0) as likers,
        acted_on.* exclude (item_id, likers),
    from known
    full outer join acted_on on known.item_id = acted_on.item_id
    left join item_clusters on coalesce(known.item_id, acted_on.item_id) = item_clusters.item_id
    where known.kind is distinct from 'search'
),

ranked as (
    select
        *,
        rank() over (order by likers desc) as popularity_rank,
        case when category is not null then rank() over (partition by category order by likers desc)
        end as category_rank,
        case when cluster is not null then rank() over (partition by cluster order by likers desc)
        end as cluster_rank,
    from items
),

item_stats as (
    select
        item_id,
        list_transform($actions, lambda a: coalesce(by_1d[a], 0)) as n_1d,
        list_transform($actions, lambda a: coalesce(by_7d[a], 0)) as n_7d,
        list_transform($actions, lambda a: coalesce(by_28d[a], 0)) as n_28d,
        (coalesce(positive, 0) + $prior_actions * $prior_share)
        / (coalesce(judged, 0) + $prior_actions) as positive_share,
        ln(
            (coalesce(positive_7d, 0) + 1)
            / ((coalesce(positive_28d, 0) - coalesce(positive_7d, 0)) / 3 + 1)
        ) as trend,
        coalesce(members, 0) as distinct_members_28d,
        case when $knows_age then (epoch_us($as_of) - epoch_us(first_at)) / 86400e6 end as age_days,
        dwell,
        popularity_rank,
        category_rank,
        cluster_rank,
    from ranked
    where $since::timestamptz is null or last_known_at >= $since or first_at >= $since
    order by item_id
)

select * from item_stats
