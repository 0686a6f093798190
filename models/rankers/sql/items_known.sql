-- one row per item that is no search: since when it is known, and its newest first category
-- Reads `stg_items`.
select
    item_id,
    min(available_at) as available_at,
    arg_max(categories[1], available_at) as category,
from stg_items
where kind is distinct from 'search'
group by item_id
order by item_id
