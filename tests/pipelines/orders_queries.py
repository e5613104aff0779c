"""Texts for --orders_query: {0} is a table of order lines, {1} its dataset, where there is a table customers, too."""

QUERIES = {
    "plain": "SELECT * FROM {0}",
    "with a comment at the end": "SELECT * FROM {0} -- the end; DROP TABLE {0}",
    "a table without its project": "SELECT * FROM {1}.orders;",
    "a quoted name": "SELECT * FROM `{0}` AS o",
    "a common table": "WITH lines AS (SELECT * FROM {0}) SELECT * FROM Lines WHERE amount > -1",
    "a common table that has the table's name": "WITH orders AS (SELECT * FROM {0}) SELECT * FROM orders",
    "nested common tables": "WITH a AS (WITH b AS (SELECT * FROM {0}) SELECT * FROM b), c AS (SELECT * FROM a) SELECT * FROM c",
    "a subquery": "SELECT * FROM (SELECT * FROM {0} WHERE customer_id IN (SELECT customer_id FROM {0}) OR customer_id IS NULL)",
    "the same table twice": "SELECT a.* FROM {0} AS a LEFT JOIN (SELECT DISTINCT customer_id AS id FROM {0}) AS b ON a.customer_id = b.id",
    "two tables": "SELECT o.* FROM {0} o LEFT JOIN {1}.customers c ON o.customer_id = c.id WHERE c.test IS NOT TRUE",
    "a union": "SELECT * FROM {0} WHERE customer_id = 1 UNION ALL SELECT * FROM {0} WHERE customer_id > 1 "
    "UNION ALL SELECT * FROM {0} WHERE customer_id IS NULL",
    "unnest": "SELECT o.* FROM {0} o, UNNEST([1]) AS one WHERE one = 1",
    "parentheses": "(SELECT * FROM {0})",
    "comments before, within and behind": "-- {0}\nSELECT * /* FROM {0} */ FROM {0} # here\nWHERE TRUE; -- the end",
    "a name in parts": "SELECT o.* FROM {1}.`orders`AS`o`WHERE o.amount > -1",
    "every kind of letter": "SELECT * FROM {0} WHERE 'é客\U0001f600' != '{0};' AND r'\\d' != \"\"\"\n;\"\"\"",
    "the last of many": "SELECT * FROM {0} ORDER BY ordered_at, customer_id LIMIT 100",
}  # fmt: skip
