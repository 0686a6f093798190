-- one row: how many items have text in no version of theirs
-- Reads `stg_items` of a source of text.
with
longest as (
    select
        item_id,
        max(length(trim(text))) as n_characters,
    from stg_items
    where kind is distinct from 'search'
    group by item_id
)

select count(*) as n_blank
from longest
where coalesce(n_characters, 0) = 0
