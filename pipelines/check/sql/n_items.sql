-- one row: how many items of the source can be used
-- Reads `stg_items`, where what members searched for is of the kind `search`.
select count(distinct item_id) as n_items
from stg_items
where kind is distinct from 'search'
