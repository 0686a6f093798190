-- one row per member of those that acted last within the window of a snapshot
with
active as (
    select
        member_id,
        event_timestamps[-1] as last_action_at,
    from read_parquet($file, hive_partitioning = false)
    where len(item_ids) > 0
),

latest as (
    select member_id
    from active
    order by last_action_at desc, member_id asc
    limit $most
)

select member_id
from latest
order by member_id
