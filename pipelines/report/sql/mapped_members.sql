-- one row per mapped item and member who acted on it: the item's place, the member as a number
-- Reads `activity` and `mapped` (item_id, place).
with
pairs as (
    select distinct
        mapped.place,
        activity.member_id,
    from activity
    inner join mapped on activity.item_id = mapped.item_id
)

select
    place,
    dense_rank() over (order by member_id) - 1 as member,
from pairs
