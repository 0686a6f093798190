-- one row per pair of an events column and an items column: the share of its values found there
-- Reads `event_values` and `item_values`: the distinct values of each column that may be an id.
with
sizes as (
    select
        column_name,
        count(*) as n_values,
    from event_values
    group by column_name
)

select
    event_values.column_name as event_column,
    item_values.column_name as item_column,
    count(*) / any_value(sizes.n_values) as share,
from event_values
inner join item_values on event_values.value = item_values.value
inner join sizes on event_values.column_name = sizes.column_name
group by event_values.column_name, item_values.column_name
