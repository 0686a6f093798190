-- one row: how many items the events name, how many have no row in the items source, their actions
-- Reads `activity` and `stg_items`.
with
acted_on as (
    select
        item_id,
        count(*) as n_actions,
    from activity
    group by item_id
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
