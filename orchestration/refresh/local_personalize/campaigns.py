"""Operations on campaigns, and the moves of those that follow their solution's latest version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestration.refresh.local_personalize.lifecycle import FAILED, Campaign, CampaignUpdate, Life, Version
from orchestration.refresh.local_personalize.state import State, copied, in_use, invalid

Parameters = Mapping[str, Any]
LATEST = "/$LATEST"


def create_campaign(state: State, given: Parameters) -> dict[str, Any]:
    config = given.get("campaignConfig", {})
    version_arn = _version_arn(state, given["solutionVersionArn"], config)
    arn = state.arn("campaign", given["name"])
    state.must_be_new(state.campaigns, arn)
    state.find_active(state.versions, version_arn)
    life = state.life("CreateCampaign", given, state.durations.deployment_seconds)
    first = CampaignUpdate(life, version_arn, given.get("minProvisionedTPS", 1), copied(config))
    state.campaigns[arn] = Campaign(arn, given["name"], life, first)
    return {"campaignArn": arn}


def _version_arn(state: State, given: str, config: Mapping[str, Any]) -> str:
    """The version that is meant; SOLUTION_ARN/$LATEST goes with syncWithLatestSolutionVersion, and only with it."""
    if given.endswith(LATEST):
        solution = state.find(state.solutions, given.removesuffix(LATEST))
        if not config.get("syncWithLatestSolutionVersion"):
            raise invalid("$LATEST needs syncWithLatestSolutionVersion to be true.")
        ready = _ready(state, solution.arn)
        if not ready:
            raise invalid(f"{solution.arn} has no ACTIVE solution version.")
        return ready[-1].arn
    if config.get("syncWithLatestSolutionVersion"):
        raise invalid("syncWithLatestSolutionVersion needs a solutionVersionArn that ends in /$LATEST.")
    return state.find(state.versions, given).arn


def _ready(state: State, solution_arn: str) -> list[Version]:
    """The ACTIVE versions of a solution, oldest first."""
    found = [each for each in state.versions.values() if each.solution_arn == solution_arn]
    return sorted((each for each in found if each.life.active_at(state.now)), key=lambda each: each.life.created)


def _settings(deployed: CampaignUpdate) -> dict[str, Any]:
    found = {"solutionVersionArn": deployed.version_arn, "minProvisionedTPS": deployed.tps}
    return {**found, "campaignConfig": copied(deployed.config)} if deployed.config else found


def describe_campaign(state: State, given: Parameters) -> dict[str, Any]:
    campaign = state.find(state.campaigns, given["campaignArn"])
    found: dict[str, Any] = {"name": campaign.name, "campaignArn": campaign.arn}
    found |= {**_settings(campaign.serving_at(state.now)), **campaign.life.summary(state.now)}
    if update := campaign.latest_update:
        found["latestCampaignUpdate"] = {**_settings(update), **update.life.summary(state.now)}
    return {"campaign": found}


def update_campaign(state: State, given: Parameters) -> dict[str, Any]:
    campaign = state.find(state.campaigns, given["campaignArn"])
    deployed = campaign.serving_at(state.now)
    version_arn = deployed.version_arn
    if "solutionVersionArn" in given:
        version_arn = _version_arn(state, given["solutionVersionArn"], given.get("campaignConfig", {}))
    elif given.get("campaignConfig", {}).get("syncWithLatestSolutionVersion"):
        raise invalid("syncWithLatestSolutionVersion needs a solutionVersionArn that ends in /$LATEST.")
    _must_be_idle(state, campaign)
    state.find_active(state.versions, version_arn)
    life = state.life("UpdateCampaign", given, state.durations.deployment_seconds)
    config = copied(given.get("campaignConfig", deployed.config))
    campaign.updates.append(CampaignUpdate(life, version_arn, given.get("minProvisionedTPS", deployed.tps), config))
    return {"campaignArn": campaign.arn}


def _must_be_idle(state: State, campaign: Campaign) -> None:
    status = campaign.life.status_at(state.now)
    if not campaign.life.active_at(state.now):
        raise in_use(f"Campaign {campaign.arn} is in {status}: it must be ACTIVE.")
    latest = campaign.latest_update
    if latest and latest.life.in_flight_at(state.now):
        raise in_use(f"The latest update of {campaign.arn} is in {latest.life.status_at(state.now)}.")


def delete_campaign(state: State, given: Parameters) -> dict[str, Any]:
    """At once; the service takes minutes."""
    campaign = state.find(state.campaigns, given["campaignArn"])
    if campaign.life.status_at(state.now) != FAILED:
        _must_be_idle(state, campaign)
    del state.campaigns[campaign.arn]
    return {}


def list_campaigns(state: State, given: Parameters) -> dict[str, Any]:
    about = given.get("solutionArn")
    campaigns = [each for each in state.campaigns.values() if about is None or _solution_of(state, each) == about]
    page, more = state.page("ListCampaigns", campaigns, given)
    summaries = [{"name": each.name, "campaignArn": each.arn, **each.life.summary(state.now)} for each in page]
    return {"campaigns": summaries, **more}


def _solution_of(state: State, campaign: Campaign) -> str:
    return state.versions[campaign.serving_at(state.now).version_arn].solution_arn


def advance(state: State, campaign: Campaign) -> None:
    """Starts the updates that were due by themselves until now: a campaign that follows its solution takes every newer version."""
    while campaign.life.active_at(state.now) and campaign.free_at() <= state.now:
        deployed = campaign.serving_at(state.now)
        if not deployed.config.get("syncWithLatestSolutionVersion"):
            return
        serving = state.versions[deployed.version_arn]
        newer = [each for each in _ready(state, serving.solution_arn) if each.life.created > serving.life.created]
        if not newer:
            return
        start = max(campaign.free_at(), min(each.life.ended for each in newer))
        version = [each for each in newer if each.life.ended <= start][-1]
        pending = min(state.durations.pending_seconds, state.durations.deployment_seconds)
        life = Life(state.clock, start, pending, state.durations.deployment_seconds - pending)
        campaign.updates.append(CampaignUpdate(life, version.arn, deployed.tps, copied(deployed.config)))
