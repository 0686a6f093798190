-- One row per moment: the row of its key that could be read then, the newest by its own time.
with
candidates as (
    select
        moments.moment,
        history.row_id,
        history.event_timestamp,
        history.created_timestamp,
    from moments
    inner join history
        on
            moments.key_id = history.key_id
            and moments.event_timestamp >= history.event_timestamp
            and moments.event_timestamp >= history.created_timestamp
            and moments.oldest <= history.event_timestamp
),

ordered as (
    select
        *,
        rank() over (
            partition by moment
            order by event_timestamp desc, created_timestamp desc
        ) as place,
    from candidates
)

select
    moment,
    min(row_id) as row_id,
    count(*) as n_rows,
from ordered
where place = 1
group by moment
order by moment
