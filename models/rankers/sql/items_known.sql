-- one row per item that is no search: since when it is known, and the category that it had then
-- A later version's category would tell labels before it what nobody knew.
-- Reads `stg_items`.
select
    item_id,
    min(available_at) as available_at,
    arg_min_null(categories[1], available_at) as category,
from stg_items
where kind is distinct from 'search'
group by item_id
order by item_id
