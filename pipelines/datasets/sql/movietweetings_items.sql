-- one row per line of movies.dat: id::title (year)::genre|genre
-- Reads `events`.
with
lines as (
    -- One column per line (no line holds a byte 1), since "::" is longer than one character.
    select
        line,
        row_number() over () as line_number,
    from read_csv(
        $path,
        columns = { 'line': 'varchar' },
        delim = '\x01',
        quote = '',
        escape = '',
        header = false,
        auto_detect = false,
        parallel = false
    )
),

fields as (
    select
        string_split(line, '::') as field,
        line,
        line_number,
    from lines
),

typed as (
    select
        try_cast(field[1] as bigint) as item_id,
        regexp_replace(field[2], '\s*\(\d{4}\)$', '') as title,
        try_cast(regexp_extract(field[2], '\((\d{4})\)$', 1) as integer) as year,
        list_filter(string_split(field[3], '|'), lambda genre: genre <> '') as genres,
        len(field) = 3 and item_id is not null as whole,
        line,
        line_number,
    from fields
),

first_rated as (
    select
        item_id,
        min(event_timestamp) as first_rated_at,
    from events
    group by item_id
),

last_rated as (select max(event_timestamp) as last_rated_at from events),

items as (
    select
        typed.*,
        cast(typed.year // 10 * 10 as varchar) || 's' as decade,
        coalesce(first_rated.first_rated_at, last_rated.last_rated_at) as available_at,
    from typed
    left join first_rated on typed.item_id = first_rated.item_id
    cross join last_rated
)

select * from items
