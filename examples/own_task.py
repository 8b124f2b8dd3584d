"""Task of your own: a generator that yields steps, which the runner performs within its limits."""

from __future__ import annotations

from restaurant_llm_batch import BatchRunner, LLMRequest, SearchQuery, Strategy, Success
from restaurant_llm_batch.steps import Flow, complete, search_all
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

REVIEWS = {
    7: ["The noodle soup is the best in town.", "Order the dumplings."],
    8: ["Cold soup and a rude waiter."],
}


def recommend_dish(restaurant_id: int) -> Flow[str]:
    """
    Recommend one dish of a restaurant.

    The generator does no I/O. Each `yield from` hands a step to the runner, which searches or calls the model, retries
    what may be retried, and sends the answer back. The same function therefore runs under every strategy.
    """
    queries = [SearchQuery(restaurant_id, text, limit=3) for text in ("delicious dish", "disappointing dish")]
    praised, criticised = yield from search_all(queries)
    # In `search_all`, an error is a value in the list, so that one failed search need not fail the item.
    if isinstance(praised, Exception):
        raise praised
    avoid = [] if isinstance(criticised, Exception) else [hit.content for hit in criticised]
    prompt = f"Name the best dish. Praise: {[hit.content for hit in praised]}. Criticism: {avoid}."
    reply = yield from complete(LLMRequest("dish", ({"role": "user", "content": prompt},)))
    return reply.text.strip()


def main() -> None:
    """Run the task on two restaurants with a search and a model that need no service."""
    llm = FakeLLM(answer=lambda request: "noodle soup" if "noodle" in str(request.messages) else "none")
    runner = BatchRunner(llm=llm, search=FakeSearch(REVIEWS), strategy=Strategy.stage(4))
    report = runner.run(recommend_dish, [7, 8])
    for outcome in report:
        if isinstance(outcome, Success):
            print(f"restaurant {outcome.item_id}: {outcome.value}")
        else:
            print(outcome)  # names the item, the stage, the attempts and the error


if __name__ == "__main__":
    main()
