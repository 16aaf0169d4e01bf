"""The words that the policy looks for, phrases between commas; `safety.reading` folds them as it folds a prompt.

Phrases of letters with spaces between words are matched as whole words, an `s` at the end is optional; those of East Asian
scripts and emoji are matched inside longer text.
"""


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.replace("\n", ",").split(",") if phrase.strip())


# Child-coded and sexual by nature: refused on their own.
SEXUALISED_MINORS = _phrases("""
    loli, lolicon, lolicom, shota, shotacon, shotacom, straight shota, toddlercon, kodomocon, babycon, childcon, lolidom
    lolibaba, lolishota, mesugaki, jailbait, jail bait, cunny, child porn, child pornography, child erotica
    child molestation, kiddie porn, kiddy porn, kid porn, preteen porn, teen porn, cp porn, csam, pedo, paedo, pedobait
    pedophile, paedophile, pedophilia, paedophilia, pedophilic, hebephile, hebephilia, ephebophilia, pthc
    sexualized minor, sexualised minor, sexualized child, sexualised child, underage sex, ロリ, ロリコン, ろり, ショタ
    ショタコン, しょた, メスガキ, 児童ポルノ, ペド, ぺど, 萝莉, 蘿莉, 正太, 恋童, 戀童, 炼铜, 로리, 쇼타, 로리콘
    아동포르노, лоли, лоликон, шота, педофил
""")

# Children, and what makes a figure one: refused together with anything sexual.
MINORS = _phrases("""
    child, children, childlike, child like, childish body, childs body, kid, kiddo, kiddie, toddler, infant, newborn, baby
    babies, babyish, preschool, preschooler, kindergarten, kindergartener, kindergartner, kindergarten uniform
    nursery school, elementary school, elementary schooler, randoseru, elementary student, primary school
    primary schooler, grade school, grade schooler, middle school, middle schooler, middle schoolgirl, junior high
    junior high schooler, high school, highschool, high schooler, highschooler, secondary school, schoolgirl, school girl
    schoolboy, school boy, schoolchild, school child, schoolchildren, schoolkid, school kid, school age, school aged
    grader, pupil of a school, school pupil, school student, loli body, shota body, minor, underage, under age, underaged
    under aged, not of age, not yet an adult, not an adult, pre adult, barely legal, preteen, pre teen, tween, tweenager
    teen, teenage, teenaged, teenager, teenie, teeny bopper, prepubescent, pre pubescent, pubescent, prepuberty
    adolescent, adolescence, juvenile, youth, youngster, younger girl, younger boy, youngling, kodomo, youjo, yojo
    shoujo body, shougakusei, chuugakusei, joshikousei, gaki, aged down, age regression, de aged, deaged, petite child
    young girl, young boy, young child, young kid, young female child, young daughter, young son, young teen, young school
    little girl, little boy, little child, little kid, little one, small girl, small boy, small child, small kid
    tiny girl, tiny boy, very young, too young, so young, extremely young, immature body, undeveloped body
    underdeveloped body, child body, girl scout, boy scout, cub scout, months old, month old, weeks old, week old
    days old, first grade, second grade, third grade, lolita, ロリータ, nymphet, jk, jc, js girl, 👶, 🧒, 👧, 👦, 🚸, 🍼
    niña, niño, nena pequeña, enfant, fillette, garçonnet, petite fille, petit garçon, kleinkind, kindlich, minderjährig
    minderjährige, schulmädchen, schuljunge, bambina, bambino, criança, menina pequena, menor de edad, mineur, mineure
    子供, 子ども, こども, 幼女, 幼児, 幼い, 小学生, 中学生, 高校生, 女子高生, 男子高生, 女児, 男児, 未成年, 園児, 児童
    赤ちゃん, 少年, 孩子, 小孩, 儿童, 兒童, 小女孩, 小男孩, 幼童, 初中生, 高中生, 女童, 男童, 婴儿, 嬰兒, 어린이, 유아
    초등학생, 중학생, 고등학생, 여고생, 미성년자, 소년, 아동, ребенок, ребёнок, дети, девочка, мальчик, школьница
    школьник, малолетка, несовершеннолетняя, несовершеннолетний, подросток
""")

# Taken out before anything is looked for: ordinary phrases that only look like the above.
HARMLESS = _phrases("""
    baby blue, baby pink, babys breath, gothic lolita, sweet lolita, classic lolita, lolita fashion, lolita dress
    wa lolita, qi lolita, kid icarus, minor damage, minor key, minor scratches, minor details, minor detail, ursa minor
    asia minor, 쇼타임, sex pistols, sussex, essex, youth hostel
""")

# Sexual content, in words and in the tags of image boards.
SEXUAL = _phrases("""
    nsfw, not safe for work, explicit, explicit nsfw, questionable, rating explicit, rating questionable, rating sensitive
    r18, r 18, r15, r 15, x rated, xxx, adult content, adult only, mature content, uncensored, censored, mosaic censoring
    bar censor, convenient censoring, nude, nudes, nudity, nudist, naked, nakedness, unclothed, undressed, undressing
    undress, topless, bottomless, disrobed, disrobing, without clothes, without clothing, no clothes, no clothing
    no shirt, clothes removed, bare body, bare breast, bare ass, bare butt, bare chest, exposed breast, exposed chest
    exposed body, birthday suit, barely clothed, half dressed, half naked, half nude, stripping, striptease, stripper
    stripped, clothes lift, skirt lift, shirt lift, dress lift, wardrobe malfunction, open clothes, sex, sexy, sexual
    sexually, sexualized, sexualised, sexuality, sexting, sexed, sensual, sensually, erotic, erotica, erotically, ero
    eroge, ecchi, hentai, porn, porno, pornography, pornographic, lewd, lewds, lewdness, obscene, indecent, smut, smutty
    kinky, kink, fetish, horny, aroused, arousal, in heat, lust, lustful, seductive, seductively, seducing, seduction
    seduce, provocative, provocatively, suggestive, suggestively, sultry, slutty, slut, whore, prostitute, prostitution
    escort girl, hooker, pin up, pinup, onlyfans, playboy, playboy bunny, camgirl, cam girl, bedroom eyes, come hither
    orgasm, orgasmic, orgasming, climax, climaxing, ahegao, moan, moaning, nipple, areola, areolae, breast, boob, booby
    boobies, tit, titties, titty, oppai, busty, cleavage, underboob, sideboob, nip slip, pussy, vagina, vaginal, vulva
    labia, clitoris, clit, penis, penile, cock, dick, phallus, testicle, scrotum, genital, genitalia, genitals, groin
    crotch, cameltoe, camel toe, pubic, pubic hair, anus, anal, asshole, ass, butt, buttocks, butt crack, mons pubis
    private part, erection, erect penis, bulge, cum, cumshot, semen, sperm, ejaculation, ejaculating, ejaculate, creampie
    bukkake, squirting, masturbation, masturbating, masturbate, fingering, fellatio, irrumatio, blowjob, blow job
    oral sex, deepthroat, cunnilingus, handjob, hand job, footjob, paizuri, titfuck, thighjob, penetration, penetrated
    penetrating, intercourse, coitus, copulation, mating, mating press, making love, love making, lovemaking, doggystyle
    doggy style, missionary position, cowgirl position, fuck, fucking, fucked, gangbang, gang bang, threesome, foursome
    orgy, group sex, rape, raped, raping, molest, molested, molestation, molesting, grope, groped, groping, incest
    incestuous, bdsm, bondage, shibari, dominatrix, femdom, maledom, sadism, masochism, gagged, ball gag, spanking
    spanked, tentacle sex, dildo, vibrator, sex toy, buttplug, butt plug, condom, impregnation, impregnate, breeding
    virgin, virginity, defloration, deflowered, futanari, futa, milf, creampied, voyeur, voyeurism, exhibitionism
    exhibitionist, peeping, upskirt, up skirt, pantyshot, panty shot, panty, panties, underpants, underwear, undies
    lingerie, bra, bralette, thong, g string, string panties, pantsu, no panties, no bra, negligee, babydoll, see through
    transparent clothes, sheer clothes, skimpy, scantily clad, revealing clothes, revealing outfit, revealing clothing
    bikini, micro bikini, sling bikini, spread legs, legs spread, legs apart, spread pussy, presenting, on all fours
    thighs spread, body worship, facesitting, face sitting, breast grab, ass grab, wet shirt, wet clothes, pole dancing
    lap dance, 🔞, 🍆💦, 裸, 全裸, ヌード, エロ, えっち, エッチ, セックス, 下着, パンツ, パンティ, 乳首, おっぱい, 性交
    性的, 官能, 淫, 卑猥, 裸体, 色情, 情色, 做爱, 做愛, 性感, 成人向け, 成人向, 무수정, 누드, 알몸, 섹스, 야한, 에로, 속옷
    팬티, 헨타이, голая, голый, обнаженная, обнажённая, обнаженный, секс, порно, эротика, эротический, трусики
    нижнее белье, desnuda, desnudo, desnudas, sexo, nackt, unterwäsche, sous vêtements
""")

# Rating tags that count as sexual only where they are a whole tag: the word alone is ordinary.
SEXUAL_TAGS = _phrases("sensitive, 18+, adults only")

# Whole tags of a negative prompt: avoiding the first asks for a nude child, avoiding the others for a child in a sexual picture.
CLOTHING = _phrases("""
    clothes, clothing, clothed, dressed, fully clothed, fully dressed, sfw, safe, safe for work, general, rating general
""")
GROWN_UP = _phrases("""
    adult, adults, grown up, grown ups, grownup, grownups, grown woman, grown man, adult woman, adult man, adult female
    adult male, of age, over 18
""")

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
)  # fmt: skip
