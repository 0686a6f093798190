-- one row per item drawn at random: its newest vector as of $as_of, every column
with known as (
    select * from read_parquet($files, hive_partitioning = false)
    where available_at <= $as_of
),

newest as (
    select * from known
    qualify row_number() over (partition by item_id order by available_at desc) = 1
),

drawn as (
    select * from newest
    order by hash(item_id, $seed::bigint)
    limit $count
)

select * from drawn  -- noqa: AM04
