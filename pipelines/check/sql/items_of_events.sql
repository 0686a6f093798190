-- one row: how many items the events name, how many have no row in the items source, their actions
-- Reads `activity`, `stg_items` and `searches`, which are no items of the source.
with
acted_on as (
    select
        activity.item_id,
        count(*) as n_actions,
    from activity
    anti join searches on activity.item_id = searches.item_id
    group by activity.item_id
),

without_row as (
    select acted_on.*
    from acted_on
    anti join stg_items on acted_on.item_id = stg_items.item_id
)

select
    (select count(*) from acted_on) as n_items,
    count(*) as n_without_row,
    coalesce(sum(n_actions), 0)::bigint as n_their_actions,
from without_row
