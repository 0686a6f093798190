-- one row per item known by $as_of: a number that stands for its content, whether its text is empty
-- Reads `stg_items`.
with
newest as (
    select
        item_id,
        coalesce(arg_max(text, available_at), '') as text,
        arg_max(categories::varchar, available_at) as categories,
    from stg_items
    where available_at < $as_of
    group by item_id
)

select
    item_id,
    md5_number_lower(concat_ws(chr(31), text, categories)) as mark,
    trim(text) = '' as is_blank,
from newest
