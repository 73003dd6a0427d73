"""Alembic's entry: runs the versions on the connection it is handed."""

from alembic import context

from chargekeep_tools.reconcile.schema import include_name, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=include_name,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
