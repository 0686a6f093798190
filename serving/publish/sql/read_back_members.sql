-- one row per member drawn at random from one partition, every column
with snapshot as (
    select * from read_parquet($file, hive_partitioning = false)
),

drawn as (
    select member_id
    from snapshot
    order by hash(member_id, $seed::bigint)
    limit $count
),

members as (
    select snapshot.*
    from snapshot
    semi join drawn on snapshot.member_id = drawn.member_id
)

-- Every column, because the table may be any view's.
select * from members  -- noqa: AM04
