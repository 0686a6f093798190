-- one row per member drawn at random: its newest profile as of $as_of, every column
with known as (
    select * from read_parquet($file, hive_partitioning = false)
    where available_at <= $as_of
),

newest as (
    select * from known
    qualify row_number() over (partition by member_id order by available_at desc) = 1
),

drawn as (
    select * from newest
    order by hash(member_id, $seed::bigint)
    limit $count
)

select * from drawn  -- noqa: AM04
