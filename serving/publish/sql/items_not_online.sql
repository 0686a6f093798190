-- one row: the oldest item vector that is missing online, and the rows from there; null when none
with items as (
    select
        available_at,
        available_at > $until
        or not list_contains(cast($unchanged as varchar[]), filename) as is_new,
    from read_parquet($files, filename = true, hive_partitioning = false)
    where available_at <= $as_of
),

missing as (
    select min(available_at) as first_available_at
    from items
    where is_new
),

counted as (
    select
        missing.first_available_at,
        count(items.available_at) as rows_from_there,
    from missing
    left join items on missing.first_available_at <= items.available_at
    group by missing.first_available_at
)

select * from counted
